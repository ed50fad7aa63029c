"""Networks: MONAI backbones, one attention query per class, the shared simplex frame as fixed classifier.

``FedNCANet`` is the method's network and ``PooledNet`` the plain baseline's. Both say what they are by
``fingerprint()``, and ``class_parameters`` tells which of their parameters belong to a class.
"""

from nc_medfl.networks.backbones import Backbone, BackboneSpec
from nc_medfl.networks.class_attention import ClassMLP, ClassQueryAttention, attention_maps
from nc_medfl.networks.etf import ArchitectureError, ETFClassifier, simplex_etf, tensor_fingerprint, unit_vectors
from nc_medfl.networks.fednca import FedNCANet, FedNCAOutput
from nc_medfl.networks.identity import class_parameters
from nc_medfl.networks.pooled import PooledNet, PooledOutput
from nc_medfl.networks.weights import load_backbone_weights

__all__ = [
    "ArchitectureError",
    "Backbone",
    "BackboneSpec",
    "ClassMLP",
    "ClassQueryAttention",
    "ETFClassifier",
    "FedNCANet",
    "FedNCAOutput",
    "PooledNet",
    "PooledOutput",
    "attention_maps",
    "class_parameters",
    "load_backbone_weights",
    "simplex_etf",
    "tensor_fingerprint",
    "unit_vectors",
]

"""FedETF-style: pooled features, normalised, before a fixed simplex classifier; no class queries.

Source: Li, Shang, He, Lin and Wu, No Fear of Classifier Biases: Neural Collapse Inspired Federated Learning with
Synthetic and Fixed Classifier, ICCV 2023 (arXiv 2303.10058): a projection layer, features of length 1, a learned
temperature, a fixed simplex. Its softmax loss balanced by class counts and its local fine-tuning have no counterpart
for many labels an image: each finding has a sigmoid and a learned bias here, and the loss is binary cross entropy.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nc_medfl.training.methods import fedavg

METHOD = replace(
    fedavg.METHOD, name="fedetf", title="FedETF", network_args=partial(fedavg.args_of_unit_head, "simplex")
)

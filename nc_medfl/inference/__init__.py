"""A trained model outside of its federation: the portable model file, predictions, explanations, exports.

A model file is a folder with ``model.json`` and ``model.safetensors``; nothing in it is code. Predicting from one
imports neither MONAI nor pandas, so that a single image is answered within seconds of the command.
"""

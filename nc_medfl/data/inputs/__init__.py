"""What lies under ``--images`` and how its bytes become radiographs.

:mod:`~nc_medfl.data.inputs.listing` finds files, also inside archives; :mod:`~nc_medfl.data.inputs.content` gives
their bytes; :mod:`~nc_medfl.data.inputs.read` reads them by what they are: DICOM, PNG, JPEG, TIFF, NIfTI, or an image
of a MedMNIST archive.
"""

"""An extension of nc_medfl: one backbone, one data source, one federated method."""

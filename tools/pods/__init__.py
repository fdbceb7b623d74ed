"""`make pods`: the mesh of the chart as containers on one machine, without a cluster."""

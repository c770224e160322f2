"""Kernels on a GPU beside the ceilings of the device and beside their peers: `make gpu-bench`.

A section is a list of cases. A case is one problem, our side and those of others: all are checked against
each other before they are timed, and what is missing on the machine is reported and passed over.
"""

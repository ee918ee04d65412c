"""Plain PyTorch forms of models: what duosora is measured against.

Each is written as a PyTorch author would write it straight after the published description, without any of duosora's
code: separate projections of queries, keys and values, a rearranged copy of each tensor for skiparse, rotary positions
in float32 for each tensor, convolutions behind an explicit causal padding, everything computed in every call. They
load the weights of duosora's layouts by name, so numbers can be compared: `tests/torch/test_plain_forms.py` does.
"""

"""The prunable layers. Each owns its forward, its gates, its cost and its slicing.

One class serves three lives, told apart by data: *dense* (the sizes of the stock
ESPnet layer, no gates), *gated* (the same sizes, every structure multiplied by a
gate) and *compact* (explicit sizes, no gates). Parameter names are ESPnet's, so a
stock checkpoint loads as it is.
"""

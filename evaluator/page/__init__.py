"""The live page: a run as it happens, and any run again afterwards.

Everything on it is a function of the ``windows`` log alone, whose offset is where a viewer goes on.
"""

"""Measurements that place edgec against its alternatives and against the hardware.

`edgec bench` alone (llama-bench's tests) is the runtime's and needs no more than a device has.
What is here needs more: the ablation compiles, the roofline measures the machine, the plots need
matplotlib. Nothing but the command line and `benchmarks/` imports it.
"""

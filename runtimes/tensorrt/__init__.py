"""NVIDIA's engines: one graph, compiled for one kind of GPU, built on the device (or ahead of time) and kept in a cache.

Read in this order:

    api.py           the three libraries behind one door: TensorRT 10.3 to 10.x, TensorRT 11, TensorRT for RTX
    device.py        which GPU this is, and how much of its memory is free
    engine_file.py   one engine in one file, and what it was built for
    cache.py         the folder that keeps them: nothing that does not match is ever loaded
    cuda.py          the few CUDA calls that running an engine takes
    context.py       an engine that is loaded, and its execution contexts
    lanes.py         the buffers of a chunk, on the host and on the device
    belt.py          copies and computation side by side
    runner.py        ``Runner`` around an engine
    build/           what makes engines: nothing that runs them imports it
"""

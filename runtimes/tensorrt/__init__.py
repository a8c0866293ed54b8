"""NVIDIA engines: graphs compiled for one kind of GPU, on the device or ahead of time, and cached.

Read in this order:

    api.py           one interface to TensorRT 10.3 to 10.x, TensorRT 11 and TensorRT for RTX
    device.py        the GPU of this process, and its free memory
    engine_file.py   one engine in one file, and what it was built for
    cache.py         the engine cache, which never loads an engine that does not match
    cuda.py          the few CUDA calls needed to run an engine
    context.py       a loaded engine and its execution contexts
    lanes.py         the buffers of a chunk, on the host and on the device
    belt.py          overlapped copies and computation
    runner.py        ``Runner`` around an engine
    build/           building engines; code that only runs them does not import it
"""

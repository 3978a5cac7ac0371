"""One session on one GPU: what cannot be known without, in two calls of under seven minutes.

    python -m benchmarks.gpu_session --part 1 --out FOLDER [--official CHECKOUT]
    python -m benchmarks.gpu_session --part 2 --out FOLDER [--official CHECKOUT]
    python -m benchmarks.gpu_session --report FOLDER

It needs torch, numpy, safetensors and pydantic. Each figure is a line of JSON, printed at once; a
part ends with a table for benchmarks/README.md and with the defaults that its figures settle.
"""

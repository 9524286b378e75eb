"""What each of two processes does in test_sharding.py: run by torchrun, one folder given."""

import os
import shutil
import signal
import sys
from pathlib import Path

import torch
import toys

from openclef.training import checkpoint, distributed, signals


def told_to_stop(folder, **kwargs):
    """The second process alone is sent SIGTERM; returns what each one ends with."""

    def tell():
        if distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        toys.run(folder, stop_at=12, at_stop=tell, **kwargs)
    except signals.Stopped as stopped:
        return stopped.code
    raise AssertionError("not stopped")


def main(out):
    distributed.start()
    rank = distributed.rank()
    torch.set_num_threads(1)

    def keep(name, tensors):
        checkpoint.save_tensors(out / f"{name}.{rank}.safetensors", tensors)

    model = toys.SmallTransformer()
    keep("shards", toys.run(out / "shards", objective=model, config=toys.SHARDED)[1])
    keep("local", {name: p.to_local() for name, p in model.named_parameters()})
    keep("line", toys.run(out / "line", **toys.line_of_shards())[1])
    code = told_to_stop(out / "told", objective=toys.SmallTransformer(), config=toys.SHARDED)
    keep("told", {"code": torch.tensor(code)})
    if rank == 0:
        shutil.copytree(out / "told", out / "told_two")
    distributed.wait()
    again = toys.run(out / "told", objective=toys.SmallTransformer(), config=toys.SHARDED)
    keep("shards_resumed", again[1])
    keep(
        "skipped", toys.run(out / "skipped", load=toys.load_with_a_nan, **toys.line_of_shards())[1]
    )
    keep("parts", toys.run(out / "parts", objective=toys.SmallTransformer(), config=toys.PARTS)[1])
    del model
    distributed.stop()
    # Threads that outlive this may abort the interpreter as it ends.
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), threads


if __name__ == "__main__":
    main(Path(sys.argv[1]))

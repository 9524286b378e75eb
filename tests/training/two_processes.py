"""What each of two processes does in test_distributed.py: run by torchrun, one folder given."""

import shutil
import sys
from pathlib import Path

import torch
import toys

from openclef import artefact
from openclef.errors import OpenclefError
from openclef.training import checkpoint, distributed


class BrokenOnSecond(toys.MaskedLine):
    def losses(self, batch, rng):
        losses = super().losses(batch, rng)
        if distributed.rank() == 1 and self.n_seen > 16:
            losses["error"] = losses["error"] * float("nan")
        return losses


def interrupted(folder, **kwargs):
    try:
        toys.run(folder, stop_at=9, **kwargs)
    except KeyboardInterrupt:
        return
    raise AssertionError("not interrupted")


def error_of(folder, **kwargs):
    try:
        toys.run(folder, **kwargs)
    except (FloatingPointError, OpenclefError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def main(out):
    distributed.start()
    distributed.start()  # harmless
    rank = distributed.rank()
    torch.set_num_threads(1)

    def keep(name, tensors):
        checkpoint.save_tensors(out / f"{name}.{rank}.safetensors", tensors)

    model = toys.MaskedLine()
    if rank == 1:  # must not matter
        model.load_state_dict({k: torch.zeros_like(v) for k, v in model.state_dict().items()})
    stage, weights = toys.run(out / "whole", objective=model)
    keep("best", weights)
    keep("last", model.state_dict())
    checkpoint.publish(stage, {"toy.safetensors": weights})
    assert artefact.load(out / "whole", kind="toy").is_complete

    interrupted(out / "broken")
    if rank == 0:
        shutil.copytree(out / "broken", out / "from_two")
    distributed.wait()
    keep("resumed", toys.run(out / "broken")[1])
    keep("from_one", toys.run(out / "from_one")[1])
    keep("few", toys.run(out / "few", config=toys.SHORT, validation=toys.VALIDATION[:1])[1])
    seeds = distributed.gather(torch.initial_seed())  # of the last step's dropout
    keep("dropout", {"seeds": torch.tensor(seeds)})

    errors = [
        error_of(out / "nan", objective=BrokenOnSecond()),
        error_of(out / "odd", config=toys.CONFIG.model_copy(update={"batch_size": 5})),
    ]
    (out / f"errors.{rank}.txt").write_text("\n".join(errors))
    distributed.stop()
    # Threads that outlive this may abort the interpreter as it ends.
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), threads


if __name__ == "__main__":
    main(Path(sys.argv[1]))

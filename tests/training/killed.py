"""Runs of test_loop.py that are ended by kill -9, each in a process of its own: a folder given."""

import os
import signal
import sys
from pathlib import Path

import test_loop
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from openclef.training import checkpoint, sharded_checkpoint


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def saving(folder):
    """When half of the second checkpoint is written."""
    save = checkpoint.save_file

    def half(tensors, path, metadata):
        save(tensors, path, metadata=metadata)
        if (folder / "checkpoints" / "last.safetensors").exists():
            os.truncate(path, path.stat().st_size // 2)
            kill()

    checkpoint.save_file = half
    test_loop.run(folder)


def saving_shards(folder):
    """When the second checkpoint has its tensors, but not what tells where they are."""
    finish = FileSystemWriter.finish

    def kill_second(self, metadata, results):
        if sharded_checkpoint.latest(folder / "checkpoints"):
            kill()
        finish(self, metadata, results)

    FileSystemWriter.finish = kill_second
    test_loop.run(folder, config=test_loop.with_changes(sharding="full"))


def training(folder):
    """In the second epoch, while a batch is loaded."""
    test_loop.run(folder, stop_at=12, at_stop=kill)


def main(out):
    for run in (saving, saving_shards, training):
        child = os.fork()
        if child == 0:
            run(out / run.__name__)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (run.__name__, status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

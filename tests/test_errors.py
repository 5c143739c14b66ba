"""What is said of a sick machine: one line, whichever library met it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dgrl.errors import InputError, WorkerError, explain
from pipeline import cli

# Files of at most 20 kB, as under `ulimit -f`: what a full disk does, where no disk can be filled.
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from dgrl.errors import explain
path, tensors = Path(sys.argv[1]), {"a": torch.zeros(20000)}
Path("rcan.safetensors").write_bytes(bytes(80000))
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    if path.suffix == ".pt":
        from dgrl.weights.checkpoint import save_checkpoint
        save_checkpoint(path, tensors, "step 1", "")
    elif path.suffix == ".npy":
        from dgrl.image_bank import load_bank
        load_bank(Path(sys.argv[2]), 64, 64, file=path)
    elif path.name == "x2":
        from dgrl.superres.pretrain import publish_trained
        publish_trained(path, Path("rcan.safetensors"))
    else:
        from safetensors.torch import save_file
        from dgrl.files import atomic_file
        with atomic_file(path) as building:
            save_file(tensors, building)
except Exception as error:
    print(explain(error))
"""


@pytest.mark.parametrize("name", ["checkpoint.pt", "model.safetensors", "images.npy", "x2"])
def test_a_file_that_does_not_fit_is_one_line_and_is_not_there(tmp_path: Path, name: str) -> None:
    from test_tables import rows

    from dgrl.tables import write_table

    write_table(tmp_path / "table", rows(4))
    path = tmp_path / "out" / name
    code = [sys.executable, "-c", LIMITED, str(path), str(tmp_path / "table")]
    ran = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == f"the file is larger than is allowed here (ulimit -f) (File too large): {path}\n"
    assert not list((tmp_path / "out").iterdir())


def test_an_error_of_the_program_is_not_explained() -> None:
    for error in (RuntimeError("unexpected"), ValueError("(os error 28)"), KeyError("image_id")):
        assert explain(error) is None


def test_an_error_that_a_person_can_mend_is_its_own_line() -> None:
    assert explain(InputError("mend it")) == explain(WorkerError("mend it")) == "mend it"


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    assert str(InputError("a.parquet: bad\nheader \x1b[31m\0")) == "a.parquet: bad header  [31m "


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OSError(28, "No space left on device", "a.bin"), 1, "split: the disk is full (No space left on "),
        (OSError(30, "Read-only file system", "a.bin"), 1, "split: the file system is read-only (Read-only"),
        (
            PermissionError(13, "Permission denied", "a.bin"),
            1,
            "split: no permission (Permission denied): a",
        ),
        (MemoryError(), 1, "split: out of memory; lower"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_the_command_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    line: str,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "_params", fail)
    monkeypatch.setattr(sys, "argv", ["dgrl", "split", "viper"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == status
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1


def _kill_self(rank: int = 0) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_rank_is_named() -> None:
    from dgrl.training.distributed import launch

    with pytest.raises(WorkerError, match=r"a rank was killed \(SIGKILL\).*; lower train"):
        launch(_kill_self, 1)


def _fail_to_write() -> None:
    raise OSError(28, "No space left on device", "model.safetensors")


def test_a_full_disk_in_a_rank_is_one_line() -> None:
    from dgrl.training.distributed import launch

    with pytest.raises(InputError, match=r"^the disk is full \(No space left on device\): model\.safete"):
        launch(_fail_to_write, 1)

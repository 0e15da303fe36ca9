"""`avprep encode` of finished clips as a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from avprep.api.runs import RunProgress, RunReport, one_callback, one_job_error, run_report
from avprep.api.sources import AnyPath
from avprep.checks import require_whole
from avprep.execution import PoolConfig
from avprep.jobs.config import EncodeJobConfig, FromClips
from avprep.jobs.encode import run_encode_job
from avprep.jobs.output import absolute
from avprep.shards.latents import EncoderHeader
from avprep.stages.encoder import EncoderFactory
from avprep.stages.options import EncodeOptions


def encode_dataset(
    clips: AnyPath,
    out: AnyPath,
    *,
    header: EncoderHeader,
    open_encoder: EncoderFactory,
    select: str | None = FromClips.select,
    packed: bool = EncodeOptions.packed,
    posterior: bool = EncodeOptions.posterior,
    batch_size: int | None = EncodeJobConfig.batch_size,
    compile: bool | None = EncodeJobConfig.compile,
    device: str = PoolConfig.device,
    workers: int | None = None,
    address: str | None = PoolConfig.address,
    rebuild: bool = EncodeJobConfig.rebuild,
    progress: Callable[[RunProgress], None] | None = None,
) -> RunReport:
    """Encodes finished clips into latent shards, as `avprep encode` does. To resume, call it again.

    Args:
        clips: a finished output of `clip_dataset` or `avprep clip`.
        out: a folder, made if need be, or a URI that pyarrow.fs opens.
        header: what the encoder makes, and the hash of its weights. Of an MDSA checkpoint:
            `avmodel.mdsa.checkpoint.read_codec_header(path)`.
        open_encoder: opens the encoder in the process that uses it: called with `device`, `batch_size` and
            `compile`. Of an MDSA checkpoint: `functools.partial(avmodel.mdsa.checkpoint.open_codec, path)`.
            Its `encode(frames, mel)` takes uint8 (B, T, H, W, RGB) and float16 (B, T, n_mels, W) tensors and
            returns an object with `mean` in [-1, 1] and `logvar`, float32 (B, C, P, rows, columns).
        select: the name of a selection of `clips`: only its clips are encoded, the others are filtered rows
            of the ledger. Its digest is in spec.json; another selection is refused.
        packed: stores the real values alone, without the planes' padding.
        posterior: stores the log-variance beside the mean.
        batch_size: clips at once; None = found by trying.
        compile: compiles the encoder; None = on a GPU.
        device: 'auto' (a GPU if there is one), 'cpu' or 'cuda'.
        workers: processes with a model each, on Ray; 0 = in this process; None = one per GPU or, without, one
            per CPU.
        address, rebuild, progress: as for `clip_dataset`.

    Raises:
        ArgumentError: an argument out of range; clips that are not finished, or not those that the encoder
            was trained on.
        ShardError: no such selection, or one of other clips.
        JobError: the output was begun with other arguments.
        OutputInUse: another run holds the output.
        EncodeError: the encoder cannot do what it is asked for.
        RunnerError: no workers as asked for, or one is lost again and again.
        Stopped: after a signal, when the shards in hand are done.
        OSError: the output cannot be written.
    """
    if workers is not None:
        require_whole("workers", workers, least=0)
    config = EncodeJobConfig(
        source=FromClips(uri=absolute("clips", clips), select=select),
        out=absolute("out", out),
        header=header,
        open_encoder=open_encoder,
        options=EncodeOptions(packed=packed, posterior=posterior),
        pool=PoolConfig(workers=workers, address=address, device=device),
        batch_size=batch_size,
        compile=compile,
        rebuild=rebuild,
    )
    with one_job_error(), _own_threads():
        report = run_encode_job(config, one_callback(progress))
    return run_report(report, damaged=tuple(report.damaged))


@contextmanager
def _own_threads() -> Iterator[None]:
    """Gives torch back the threads that it had: a worker in this process takes one."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)

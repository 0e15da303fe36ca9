"""How much of a clip is speech, by Silero VAD, whose package brings its weights."""

from __future__ import annotations

import numpy as np

from avprep.scores.base import Column, Measure, Score, Value, WeightPaths
from avprep.scores.clip import ScoredClip

SAMPLE_RATE = 16000
WINDOW = 512  # samples: 32 ms, the only length that the network takes
SPEECH = 0.5  # a window is speech from this probability on, the package's default


def open_speech(paths: WeightPaths) -> Measure:
    """Loads the network. Importing its package sets torch to one thread; that is taken back."""
    import torch

    from avprep.dsp.resample import resample_to

    threads = torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(threads)
    network = silero_vad.load_silero_vad()

    def speech_share(clip: ScoredClip) -> dict[str, Value]:
        """The share of whole windows of 32 ms that are speech. None: the clip is shorter than a window."""
        waveform = resample_to(clip.waveform, clip.spec.sample_rate, SAMPLE_RATE)
        windows = waveform[: len(waveform) // WINDOW * WINDOW].reshape(-1, WINDOW)
        if not len(windows):
            return {"speech_share": None}
        network.reset_states()
        with torch.inference_mode():
            chances = [float(network(torch.from_numpy(window), SAMPLE_RATE)) for window in windows]
        return {"speech_share": float(np.mean(np.array(chances) >= SPEECH))}

    return speech_share


SPEECH_SHARE = Score(
    name="speech_share",
    columns=(
        Column(name="speech_share", kind="float", unit="share", low=0, high=1, meaning="windows with speech"),
    ),
    needs=("waveform",),
    cost="network",
    open=open_speech,
    source="Silero Team, Silero VAD, 2021",
    modules=("silero_vad",),
    extra="speech",
)

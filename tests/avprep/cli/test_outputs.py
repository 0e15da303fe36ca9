"""Options that name outputs: shares are read off the end; a second output is used or refused."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from avmodel.cli import main as avmodel
from avprep.cli.outputs import MixedOutput, MixedOutputType, mixture


@pytest.mark.parametrize(
    ("given", "out", "share"),
    [
        ("clips", "clips", None),
        ("a/b:0.3", "a/b", 0.3),
        ("a:.5", "a", 0.5),
        ("a:2", "a", 2.0),
        ("a:b:1.", "a:b", 1.0),
        ("a:b", "a:b", None),
        ("s3://host:9000/a", "s3://host:9000/a", None),
        ("s3://host:9000/a:3", "s3://host:9000/a", 3.0),
        ("a:nan", "a:nan", None),
        ("a:-1", "a:-1", None),
        (":1", ":1", None),
    ],
)
def test_a_number_after_the_last_colon_is_a_share(given, out, share):
    assert MixedOutputType().convert(given, None, None) == MixedOutput(out, share)


@pytest.mark.parametrize("share", ["0", "0.0", "00"])
def test_a_share_of_nothing_is_refused(share):
    with pytest.raises(click.BadParameter, match="a share must be above 0"):
        MixedOutputType().convert(f"a:{share}", None, None)


def test_all_outputs_have_a_share_or_none_has():
    assert mixture((MixedOutput("a", None), MixedOutput("b", None)), "--clips") == (["a", "b"], None)
    assert mixture((MixedOutput("a", 3), MixedOutput("b", 7)), "--clips") == (["a", "b"], [3, 7])
    with pytest.raises(click.UsageError, match="--clips b: it has no share, and others have one"):
        mixture((MixedOutput("a", 3), MixedOutput("b", None)), "--clips")


def test_a_command_of_one_output_refuses_a_second_one(tmp_path):
    options = ["--ckpt", "mdsa.pt", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(avmodel, ["reconstruct", "--clips", "a", "--clips", "b", *options])
    assert done.exit_code == 2
    assert "--clips is given 2 times, and reconstruct takes one output; avprep merge" in done.output

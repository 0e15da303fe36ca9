"""Credentials in addresses: which are found, that no message repeats them, and what is left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avprep.credentials import credentials_in, require_no_credentials, scrubbed
from avprep.errors import ArgumentError

SECRET = "wJalrXUtnFEMIK7MDENG"
WITH = [
    f"s3://AKIA4EXAMPLE:{SECRET}@bucket/clips",
    f"s3://AKIA4EXAMPLE:wJ/{SECRET}@bucket/clips",  # AWS's keys may hold slashes
    f"s3:/AKIA4EXAMPLE:{SECRET}@bucket",  # as a Path writes it
    f"S3://:{SECRET}@bucket",
    f"https://user:{SECRET}@host/x.mp4",
    f"https://{SECRET}@github.com/x",
    f"https://user%3A{SECRET}@host/x",
    f"hdfs://me:{SECRET}@namenode/out",
    f"abfs://container:{SECRET}@account.dfs.core.windows.net/out",
    f"s3://bucket/clips?access_key_id={SECRET}&region=eu",
    f"s3://bucket/clips?region=eu&secret_access_key={SECRET}",
    f"s3://bucket/clips?session_token={SECRET}",
    f"https://b.s3.amazonaws.com/x.mp4?X-Amz-Credential=A&X-Amz-Signature={SECRET}",
    f"https://host/x.mp4?x-amz-security-token={SECRET}",
    f"https://storage.googleapis.com/b/x.mp4?X-Goog-Signature={SECRET}",
    f"https://account.blob.core.windows.net/c/x.mp4?sv=2022&sig={SECRET}",
    f"https://d.cloudfront.net/x.mp4?Policy=a&Signature={SECRET}&Key-Pair-Id=b",
    f"https://host/x.mp4?access%5Ftoken={SECRET}",
    f"https://host/x.mp4#access_token={SECRET}",
    f"https://host/x.mp4?a=1;api_key={SECRET}",
    f"ray://user:{SECRET}@head:10001",
]
WITHOUT = [
    "/data/out",
    "clips@home:/x",
    "s3://bucket/clips?region=eu-west-1&scheme=http&endpoint_override=localhost:9000",
    "s3://bucket/2020@home/x.mp4",
    "gs://anonymous@bucket/x",
    "hdfs://me@namenode:8020/out",
    "abfs://container@account.dfs.core.windows.net/out",
    "http://host:9000/users/me@home/x.mp4",
    "https://host/@channel/x.mp4?t=5&list=9&keyframe=3",
    "file:///data/me@home:a@b/x.mp4",
    "/data/secret=1/token.mp4",
    "127.0.0.1:6379",
    "a caption: me@home says key=5",
]


@pytest.mark.parametrize("address", WITH)
def test_an_address_with_credentials_is_refused_and_not_repeated(address):
    for given_as in (address, Path(address)):
        with pytest.raises(ArgumentError) as caught:
            require_no_credentials("out", given_as)
        assert str(caught.value).startswith("out must not hold credentials (")
        assert SECRET not in str(caught.value) and "AKIA" not in str(caught.value)


@pytest.mark.parametrize("address", WITHOUT)
def test_an_address_without_credentials_passes(address):
    require_no_credentials("out", address)
    assert credentials_in(address) is None


@pytest.mark.parametrize("address", WITH)
def test_a_text_with_an_address_is_scrubbed_of_its_credentials_alone(address):
    text = scrubbed(f"cannot open '{address}', status 403, region=eu", {})
    assert SECRET not in text
    assert text.startswith("cannot open '") and text.endswith("', status 403, region=eu")
    assert credentials_in(address) is not None


@pytest.mark.parametrize("address", WITHOUT)
def test_a_text_without_credentials_is_not_changed(address):
    text = f"cannot open {address.replace('secret=1', 'x').replace('key=5', 'x')} (status 403)"
    assert scrubbed(text, {}) == text


def test_the_values_of_secret_environment_variables_are_scrubbed():
    environment = {
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SHARED_CREDENTIALS_FILE": "/home/me/.aws/credentials",
        "HF_TOKEN": "short",
        "HOME": "/home/me/data",
    }
    text = f"{SECRET}: short answer of /home/me/data, not /home/me/.aws/credentials"
    assert scrubbed(text, environment) == text.replace(SECRET, "***")


@given(st.text())
def test_any_text_is_scrubbed_once_and_for_all(text):
    once = scrubbed(text, {})
    assert scrubbed(once, {}) == once


@pytest.mark.parametrize("piece", ["a", "a://", "ab:/", "a:", "x=", "?a=:/", ":", "ab:/:", "ab://a@"])
def test_hostile_texts_take_time_in_proportion_to_their_length(piece):
    text = piece * (131_072 // len(piece)) + ":/"
    began = time.process_time()
    credentials_in(text)
    scrubbed(text, {})
    assert time.process_time() - began < 5  # of a quadratic search: minutes

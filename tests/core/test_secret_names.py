from __future__ import annotations

import pytest

from pytest_avo.core.secret_names import is_secret


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "hf_token", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "DB_PASSWD", "GOOGLE_CREDENTIALS"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["PATH", "HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OPENAI_BASE_URL"])
def test_names_of_what_may_be_seen(name: str) -> None:
    assert not is_secret(name)

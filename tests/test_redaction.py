"""Credentials are removed from the text of providers wherever it is kept, and other text stays as it is."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import dspy
import pytest
from hypothesis import given, strategies as st
from support.loopback import Loopback, refusal

from moa_dspy import Agent, AttentionMoA
from moa_dspy.errors import AllProposalsFailedError, ConfigurationError, RunError, StepFailedError
from moa_dspy.redaction import REDACTED, redacted, remember
from moa_dspy.runtime.failures import failure_of
from moa_dspy.trace import Failure

# Each row: a text, and the secret in it.
SECRETS = [
    ("Incorrect API key provided: Bearer sk-LIVESECRET0123456789", "sk-LIVESECRET0123456789"),
    (
        "Incorrect API key provided: sk-proj-abcDEF123_456-ghi789. You can find it at https://x.y",
        "abcDEF123_456-ghi789",
    ),
    ("Incorrect API key provided: abcdef0123456789.", "abcdef0123456789"),
    ("Incorrect API key provided: sk-abc***********************wxyz", "wxyz"),
    ('{"error": {"message": "invalid x-api-key", "received": "sk-ant-api03-AbC_dEf-123"}}', "sk-ant-api03-AbC_dEf-123"),
    ('headers: {"Authorization": "Bearer 9f8e7d6c5b4a"}', "9f8e7d6c5b4a"),
    ("Authorization: Bearer abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz"),
    ("authorization: Token r8_AbCdEfGhIjKlMnOpQrSt", "r8_AbCdEfGhIjKlMnOpQrSt"),
    ("Authorization: Basic dXNlcjpwYXNzd29yZDEyMw==", "dXNlcjpwYXNzd29yZDEyMw=="),
    ("sent Basic dXNlcjpwYXNzd29yZDEyMw== to the proxy", "dXNlcjpwYXNzd29yZDEyMw=="),
    ("GET /v1beta/models?key=AIzaSyA-1234567890abcdefghijklmnopq", "AIzaSyA-1234567890abcdefghijklmnopq"),
    ("url: https://host/v1?api-key=0123456789abcdef&api-version=2024", "0123456789abcdef"),
    ("url: https://host/v1?sig=Zm9vYmFy%2Bbaz1234%3D&se=2024", "Zm9vYmFy%2Bbaz1234%3D"),
    ("https://user:hunter2secret@host.example/v1 refused the request", "hunter2secret"),
    ("The security token AKIAIOSFODNN7EXAMPLE is invalid", "AKIAIOSFODNN7EXAMPLE"),
    ("aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI"),
    ("Credential=AKIAIOSFODNN7EXAMPLE/20240101/us-east-1/bedrock", "AKIAIOSFODNN7EXAMPLE"),
    ("x-amz-security-token: FwoGZXIvYXdzEBYaDHqa0AP1/long==", "FwoGZXIvYXdzEBYaDHqa0AP1"),
    ("token hf_AbCdEfGhIjKlMnOpQrStUvWxYz is not allowed", "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"),
    ("gsk_abcDEF1234567890abcDEF is expired", "gsk_abcDEF1234567890abcDEF"),
    ("xai-0123456789abcdefABCDEF is unknown", "xai-0123456789abcdefABCDEF"),
    ("ya29.a0AfH6SMBx-1234567890 has expired", "ya29.a0AfH6SMBx-1234567890"),
    ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN is malformed", "dozjgNryP4J3jVmN"),
    ("ghp_0123456789abcdefghijABCDEFGHIJ0123 cannot read it", "ghp_0123456789abcdefghijABCDEFGHIJ0123"),
    ("nvapi-abcdefgh12345678 has no access", "nvapi-abcdefgh12345678"),
    ("api_key='mysecretkeyvalue'", "mysecretkeyvalue"),
    ('{"api_key": "mysecretkeyvalue"}', "mysecretkeyvalue"),
    ('{\\"api-key\\": \\"mysecretkeyvalue\\"}', "mysecretkeyvalue"),
    ("OPENAI_API_KEY=notasecretprefix99 was rejected", "notasecretprefix99"),
    ("Ocp-Apim-Subscription-Key: 0a1b2c3d4e5f60718293a4b5c6d7e8f9", "0a1b2c3d4e5f60718293a4b5c6d7e8f9"),
    ("client_secret=GOCSPX-abcdefghij12345", "GOCSPX-abcdefghij12345"),
    ("password: hunter2hunter2", "hunter2hunter2"),
    ("your access token is 4f3e2d1c0b9a8877", "4f3e2d1c0b9a8877"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----", "MIIEowIBAAKCAQEA"),
    ("private_key: -----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBg", "MIIEvQIBADANBg"),
]

ORDINARY = [
    "rate limit reached for gpt-4.1 in organization org-abc on tokens per min: limit 30000, used 29000",
    "This model's maximum context length is 8192 tokens, however you requested 9000 tokens (max_tokens=1000)",
    "max_tokens: 512 is too large; completion_tokens=12, prompt_tokens=345",
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth",
    "no API key: set the environment variable OPENAI_API_KEY (for openai/gpt-4.1)",
    "The API key is missing or invalid",
    "Invalid API key: please check the dashboard",
    "Unexpected token: expecting value at line 1 column 1",
    "KeyError: 'answer'; key: answer",
    "signature='question -> answer' has no field reasoning",
    "keys have no place in a file; write api_key_env = \"NAME\"",
    "the model openai/gpt-4o-mini-2024-07-18 does not exist at https://api.openai.com/v1",
    "anthropic/claude-sonnet-4-5-20250929: overloaded_error, request id req_011CSHoEeqs5C35K2UUqR7Fy",
    "task-based routing: risk-averse desk-top sk-learn disk-full",
    "Request too large: 413; retry-after: 20",
    "Basic authentication is not supported; Basic understanding",
    "no reply in time",
    "token limit exceeded; token count: 12345",
    "the key of the cache is unknown",
    "connect to 127.0.0.1:8000 refused, see http://127.0.0.1:8000/v1/models",
]  # fmt: skip


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_a_secret_is_removed(text: str, secret: str):
    assert secret in text
    assert secret not in redacted(text)
    assert REDACTED in redacted(text)
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_other_text_stays(text: str):
    assert redacted(text) == text


@pytest.mark.parametrize(
    "name",
    ["OPENAI_API_KEY", "HF_TOKEN", "MY_SECRET", "AWS_SECRET_ACCESS_KEY", "TEAM_KEY", "AZURE_AD_TOKEN", "DB_PASSWORD"],
)
def test_the_value_of_a_variable_is_removed_in_every_form(name: str, monkeypatch: pytest.MonkeyPatch):
    value = "plain words+of/no-shape"
    monkeypatch.setenv(name, value)
    for form in (
        value,
        "plain%20words%2Bof%2Fno-shape",
        "plain+words%2Bof%2Fno-shape",
        base64.b64encode(value.encode()).decode(),
    ):
        assert redacted(f"before {form} after") == f"before {REDACTED} after"


def test_the_keys_of_models_are_removed():
    headers = {"X-Api-Key": "headervalueone", "Authorization": "Bearer bearervalueone"}
    Agent(dspy.LM("openai/model", api_key="zyxwvutsrqpo", extra_headers=headers))
    remember({"model_list": [], "timeout": 3, "headers": {"cookie": "cookievalueone"}})
    assert redacted("zyxwvutsrqpo headervalueone bearervalueone cookievalueone") == " ".join([REDACTED] * 4)


def test_short_values_are_no_secrets():
    remember({"api_key": "EMPTY"})
    assert redacted("an EMPTY reply") == "an EMPTY reply"


MAKERS = [
    RunError,
    ConfigurationError,
    lambda text: StepFailedError("propose", "a", "auth", text),
    lambda text: AllProposalsFailedError({"a": text}),
]


@pytest.mark.parametrize("make", MAKERS)
def test_our_errors_hold_no_secret(make: Any):
    assert "LIVESECRET" not in str(make("refused: sk-LIVESECRET0123456789"))


def test_a_failure_holds_no_half_of_a_secret():
    for length in range(440, 520):
        failure = failure_of(RuntimeError("x" * length + " api_key=abcdefghij0123456789"))
        assert "abcdef" not in failure.message
        assert len(failure.message) <= 500


def test_a_failure_read_from_a_file_is_cleaned_too():
    assert "LIVE" not in Failure.model_validate({"kind": "auth", "message": "sk-LIVESECRET0123456789"}).message


def test_a_provider_that_repeats_the_key_reaches_neither_error_nor_trace():
    key = "Zx9-plain-looking.KEY"
    said = f"Incorrect API key provided: Bearer {key}; also sk-LIVESECRET0123456789"
    traces: list[Any] = []
    with Loopback(lambda body: refusal(401, said, "invalid_api_key")) as server:
        lm = dspy.LM("openai/model", api_base=server.url, api_key=key, cache=False, num_retries=0)
        moa = AttentionMoA("question -> answer", [lm, lm])
        from moa_dspy import watch

        with watch(traces.append), pytest.raises(AllProposalsFailedError) as caught:
            moa(question="?")
    kept = str(caught.value) + json.dumps(caught.value.causes) + traces[-1].to_json() + traces[-1].summary(steps=True)
    assert key not in kept
    assert "LIVESECRET" not in kept
    assert "Incorrect API key" in kept


@given(st.text(max_size=300))
def test_any_text_is_read_and_read_again_alike(text: str):
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "unit", ["a", "-", "key", "key=", "Bearer ", "eyJ", "sk-", "api_", " is ", "https://", "\\'\"", "x_key"]
)
def test_long_text_takes_little_time(unit: str):
    text = (unit * 20_000)[:20_000]
    began = time.process_time()
    redacted(text)
    assert time.process_time() - began < 2.0

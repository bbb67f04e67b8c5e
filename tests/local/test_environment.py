"""What the child process of the embedded model gets to know of the environment."""

from __future__ import annotations

import pytest

from moa_dspy.local.server import _inherited

SECRETS = [
    "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_OPENAI_AD_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS",
    "DATABASE_URL", "TEAM_OPENAI_KEY", "GITHUB_TOKEN", "SSH_AUTH_SOCK", "PGPASSWORD", "NVIDIA_API_KEY",
    "NVIDIA_NIM_API_KEY", "LLAMA_API_KEY", "OPENAI_API_BASE", "HTTPS_PROXY", "MY_SECRET", "ROCKET_URL_SECRET",
    "VKONTAKTE_TOKEN", "NETRC", "KUBECONFIG",
]  # fmt: skip
NEEDED = [
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION",
    "GGML_CUDA_FORCE_MMQ", "OMP_NUM_THREADS", "PYTHONHOME", "VK_ICD_FILENAMES", "SYSTEMROOT", "VIRTUAL_ENV",
    "LLAMA_ARG_THREADS", "ZE_AFFINITY_MASK", "SYCL_CACHE_PERSISTENT", "COVERAGE_PROCESS_START",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_inherited(name: str):
    assert _inherited({name: "x", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize("name", NEEDED)
def test_what_an_interpreter_and_a_driver_need_is_inherited(name: str):
    assert _inherited({name: "x"}) == {name: "x"}

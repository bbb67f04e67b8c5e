from .files import (
    ConfigurationError as ConfigurationError,
    LocalModelError as LocalModelError,
    check_local as check_local,
    is_local as is_local,
    model_path as model_path,
)
from .lm import (
    AsyncLocalEngine as AsyncLocalEngine,
    LocalEngine as LocalEngine,
    LocalStartError as LocalStartError,
    local_lm as local_lm,
    local_server as local_server,
)
from .server import (
    LocalServer as LocalServer,
    LocalSettings as LocalSettings,
)

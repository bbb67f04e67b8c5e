__version__: str

from .agents import Agent as Agent
from .architecture import (
    AgentSpec as AgentSpec,
    Architecture as Architecture,
)
from .batches import Batches as Batches
from .cost.budget import Budget as Budget
from .cost.own_price import OwnPrice as OwnPrice
from .cost.usage import (
    Tokens as Tokens,
    Usage as Usage,
)
from .errors import (
    AllProposalsFailedError as AllProposalsFailedError,
    AllRunsFailedError as AllRunsFailedError,
    BudgetExhaustedError as BudgetExhaustedError,
    ConfigurationError as ConfigurationError,
    InputError as InputError,
    LocalModelError as LocalModelError,
    MetricError as MetricError,
    MoAError as MoAError,
    ProgramFileError as ProgramFileError,
    RunError as RunError,
    StepFailedError as StepFailedError,
)
from .evaluation import evaluate as evaluate
from .gate import (
    Agreement as Agreement,
    Gate as Gate,
)
from .planning import (
    Lengths as Lengths,
    Plan as Plan,
)
from .positions import (
    Dissent as Dissent,
    DissentPoint as DissentPoint,
    DissentReport as DissentReport,
    Position as Position,
)
from .presets import (
    attention_moa as attention_moa,
    mixture_of_agents as mixture_of_agents,
    self_consistency as self_consistency,
    self_moa as self_moa,
    single_model as single_model,
)
from .program import (
    AttentionMoA as AttentionMoA,
    Prediction as Prediction,
    load as load,
)
from .protocols import (
    AggregationContext as AggregationContext,
    AggregationRule as AggregationRule,
    Answer as Answer,
    AnswerPattern as AnswerPattern,
    AttentionPattern as AttentionPattern,
    StopCondition as StopCondition,
)
from .rows import (
    RunProgress as RunProgress,
    RunResult as RunResult,
    run as run,
)
from .runtime.concurrency import limit_concurrency as limit_concurrency
from .runtime.tolerance import Tolerance as Tolerance
from .trace import (
    Failure as Failure,
    GroupUsage as GroupUsage,
    Step as Step,
    StepStarted as StepStarted,
    Trace as Trace,
    record_prompts as record_prompts,
    watch as watch,
)

from .analysis.calibration import (
    AgreementLevel as AgreementLevel,
    Calibration as Calibration,
    calibrate as calibrate,
    expected_calibration_error as expected_calibration_error,
)
from .analysis.ceiling import (
    Ceiling as Ceiling,
    Way as Way,
    ceiling as ceiling,
    ceiling_of as ceiling_of,
)
from .analysis.contributions import (
    Contribution as Contribution,
    Contributions as Contributions,
    contributions as contributions,
)
from .analysis.profile import (
    Profile as Profile,
    StageRow as StageRow,
    profile as profile,
)
from .analysis.quarantine import (
    Quarantine as Quarantine,
    quarantine as quarantine,
)
from .analysis.stages import (
    StageScore as StageScore,
    StageScores as StageScores,
    attribute as attribute,
)
from .comparison.acceptance import (
    Acceptance as Acceptance,
    accept as accept,
)
from .comparison.compare import (
    Comparison as Comparison,
    Contender as Contender,
    compare as compare,
)
from .exports import (
    AllRunsFailedError as AllRunsFailedError,
    BudgetExhaustedError as BudgetExhaustedError,
    BudgetTooSmallError as BudgetTooSmallError,
    ConfigurationError as ConfigurationError,
    CostRecord as CostRecord,
    DataRecord as DataRecord,
    DeclinedError as DeclinedError,
    Gain as Gain,
    Judgement as Judgement,
    MetricError as MetricError,
    Price as Price,
    RunError as RunError,
    Score as Score,
    ScoreRecord as ScoreRecord,
)
from .measuring import (
    Measurement as Measurement,
    Metric as Metric,
    Run as Run,
    measure as measure,
)
from .optimize import (
    OptimizeResult as OptimizeResult,
    forecast as forecast,
    optimize as optimize,
)
from .optimize_plan import (
    OptimizeProgress as OptimizeProgress,
    Part as Part,
    SearchOptions as SearchOptions,
)
from .prompts.compile import (
    CompileProgress as CompileProgress,
    CompileResult as CompileResult,
    compile as compile,
)
from .prompts.feedback import StageFeedback as StageFeedback
from .prompts.method import (
    Effort as Effort,
    PromptJob as PromptJob,
    PromptMethod as PromptMethod,
)
from .prompts.methods import (
    Bootstrap as Bootstrap,
    BootstrapRandom as BootstrapRandom,
    Copro as Copro,
    Gepa as Gepa,
    Knn as Knn,
    Labeled as Labeled,
    MethodName as MethodName,
    Mipro as Mipro,
    Reanchor as Reanchor,
    Simba as Simba,
)
from .provenance import (
    Provenance as Provenance,
    provenance_of as provenance_of,
    stamp as stamp,
)
from .report.page import render as render
from .report.records import (
    AcceptanceRecord as AcceptanceRecord,
    CategoryRow as CategoryRow,
    CeilingRecord as CeilingRecord,
    CompareRecord as CompareRecord,
    CompileErrors as CompileErrors,
    CompileRecord as CompileRecord,
    CompileScores as CompileScores,
    ContributionsRecord as ContributionsRecord,
    DamagedRecord as DamagedRecord,
    DepthPoint as DepthPoint,
    EvaluationRecord as EvaluationRecord,
    FoundArchitecture as FoundArchitecture,
    GatePoint as GatePoint,
    GateRecord as GateRecord,
    OptimizeRecord as OptimizeRecord,
    OptimizeRound as OptimizeRound,
    PredictorChange as PredictorChange,
    ProfileRecord as ProfileRecord,
    ProgramPart as ProgramPart,
    ProgramPrompt as ProgramPrompt,
    ProgramRecord as ProgramRecord,
    ProgramSide as ProgramSide,
    ReportRecord as ReportRecord,
    SearchRecord as SearchRecord,
    SpentRow as SpentRow,
    StopRecord as StopRecord,
    TraceRecord as TraceRecord,
    TrialRow as TrialRow,
    records_in as records_in,
)
from .search.designs import (
    BoundSpace as BoundSpace,
    Design as Design,
)
from .search.gp_designs import GaussianProcessDesigns as GaussianProcessDesigns
from .search.objective import Objective as Objective
from .search.results import Point as Point
from .search.samplers import (
    DesignSampler as DesignSampler,
    RandomDesigns as RandomDesigns,
    TPEDesigns as TPEDesigns,
)
from .search.search import (
    SearchProgress as SearchProgress,
    SearchResult as SearchResult,
    search as search,
)
from .search.space import SearchSpace as SearchSpace
from .search.trials import Pruning as Pruning
from .search.warm_start import WarmStart as WarmStart
from .stop_fitting.fit import (
    StopFit as StopFit,
    fit_stop_rule as fit_stop_rule,
)
from .stop_fitting.gates import (
    GateFit as GateFit,
    GateTrial as GateTrial,
    fit_gate as fit_gate,
)
from .stop_fitting.replay import StopRule as StopRule
from .stop_fitting.rescoring import (
    Depth as Depth,
    depth_curve as depth_curve,
    fit_stop as fit_stop,
)
from .teleprompters import (
    ArchitectureSearch as ArchitectureSearch,
    MoAOptimizer as MoAOptimizer,
)

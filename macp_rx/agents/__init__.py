"""Agents: functions from what was accepted to what to say. Ready-made ones, parts to make your own of, and what runs them."""

from macp_rx.agents.bootstrap import Bootstrap as Bootstrap
from macp_rx.agents.bootstrap import from_bootstrap as from_bootstrap
from macp_rx.agents.fleet import Fleet as Fleet
from macp_rx.agents.fleet import Served as Served
from macp_rx.agents.ready import Evaluation as Evaluation
from macp_rx.agents.ready import Update as Update
from macp_rx.agents.ready import approver as approver
from macp_rx.agents.ready import evaluator as evaluator
from macp_rx.agents.ready import handoff_target as handoff_target
from macp_rx.agents.ready import majority_committer as majority_committer
from macp_rx.agents.ready import task_worker as task_worker
from macp_rx.agents.ready import voter as voter
from macp_rx.agents.running import outcome_of as outcome_of
from macp_rx.agents.running import run as run
from macp_rx.agents.running import serve as serve
from macp_rx.agents.speaking import from_start as from_start
from macp_rx.agents.speaking import merge as merge
from macp_rx.agents.speaking import on as on
from macp_rx.agents.speaking import on_state as on_state
from macp_rx.agents.speaking import opening as opening
from macp_rx.memory import Memory as Memory
from macp_rx.memory import remembered as remembered

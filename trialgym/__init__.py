"""Text environments with the Gymnasium interface, and the loop that learns from trial and error."""

import os

from trialgym.core import (
    ActionSpec,
    AnyText,
    Outcome,
    Snapshot,
    Task,
    TaskSet,
    TextEnv,
)
from trialgym.policy import Policy, Reply, Request
from trialgym.records import Message, PolicyInfo, StopReason, Summary, Trajectory, Turn, summarise
from trialgym.registry import make, make_agent, make_vec, register_with_gymnasium

__version__ = "0.1.0"
__all__ = [
    "ActionSpec",
    "AnyText",
    "Message",
    "Outcome",
    "Policy",
    "PolicyInfo",
    "Reply",
    "Request",
    "Snapshot",
    "StopReason",
    "Summary",
    "Task",
    "TaskSet",
    "TextEnv",
    "Trajectory",
    "Turn",
    "make",
    "make_agent",
    "make_vec",
    "summarise",
]

# OpenMP threads that wait by spinning starve the other processes of a machine (measured: training
# and rollouts up to 8 times slower); the variable is only read while torch is being imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
register_with_gymnasium()

"""Text environments with the Gymnasium interface, and the loop that learns from trial and error."""

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

register_with_gymnasium()

"""A task is given to whoever takes it, and taken over by another when the first gets stuck.

The planner asks for a report. The crawler takes the task on and tells how far it is, but then nothing comes any more. It
knows how long it may take, so it gives the task back. The archive, which stands by for that, takes it over and completes it,
and the planner commits to the result. The policy has to allow that a task changes hands.
"""

import asyncio
import logging
import sys
from collections.abc import Callable

from macp_rx import Accepted, Agent, MacpClient, Message, Outcome, SessionStart, TaskSession, agents
from macp_rx.protocol.modes import task
from macp_rx.protocol.policy import AssignmentRules, build_task_policy

PATIENCE = 0.5  # seconds that the crawler may take
POLICY = build_task_policy("policy.reassign", assignment=AssignmentRules(allow_reassignment_on_reject=True))
TEAM = ["planner", "crawler", "archive"]
START = SessionStart(
    mode=task.MODE, intent="a report", participants=TEAM, ttl_ms=60_000, policy_version=POLICY.policy_id
)


async def crawl(_request: Accepted[task.TaskRequestPayload], update: agents.Update) -> bytes:
    """Gets stuck on the third page."""
    update(0.25, "first page")
    update(0.5, "second page")
    await asyncio.sleep(3600)
    return b"all pages"


def give_back(request: Accepted[task.TaskRequestPayload], _error: Exception) -> Message:
    """What the crawler says when it has taken too long."""
    return task.reject_task(request.payload.task_id, reason="the third page does not load")


def look_up(_request: Accepted[task.TaskRequestPayload], update: agents.Update) -> bytes:
    """The archive has it all."""
    update(0.9, "found last year's copy")
    return b"the report"


def conclude(state: task.State) -> Message | None:
    """The planner commits to what is reported."""
    if state.report is None:
        return None
    action = "task.completed" if state.is_completed else "task.failed"
    return task.commit(action=action, authority_scope="report", reason=f"reported by {state.reporter}")


AGENTS: dict[str, Agent] = {
    "planner": agents.merge(
        agents.opening(task.request_task("report", "the figures of the third quarter")),
        agents.on_state(task, policy=POLICY).say(conclude),
    ),
    "crawler": agents.task_worker("crawler", crawl, timeout=PATIENCE, fallback=give_back),
    "archive": agents.task_worker("archive", look_up, volunteers=False, takes_over=True),
}


def coordinate(client: MacpClient, hear: Callable[[Accepted], None]) -> Outcome:
    """Opens the session under its policy, lets everybody take part, and waits for how it ends."""
    client.register_policy(POLICY)
    session = TaskSession.open(client, START)
    session.events.subscribe(hear)
    return agents.run(session, AGENTS)


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="  (%(message)s)")  # why the crawler gives the task back
    with MacpClient.embedded(agent="planner") as client:
        outcome = coordinate(client, print)
    print(f"{outcome.state}: {outcome.reason}")


if __name__ == "__main__":
    main()

"""A node with the lifecycle of ROS 2: states, services and transition events, none of which can end its process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn

Transition = Callable[[ChangeState.Request, ChangeState.Response], ChangeState.Response]

DONE, FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Managed(LifecycleNodeMixin):
    """To be mixed into a node, which gives the four deeds; a deed that raises leaves the state as it was.

    Publishers stay as they are in every state, for latched ones must say how things stand.
    """

    def __init__(self, exclusive: Callable[[Transition], Transition] = lambda callback: callback) -> None:
        """`exclusive` makes a callback one that has the hand for itself."""
        LifecycleNodeMixin.__init__(self)
        self.failure = ""
        """Why the last transition did not succeed; empty when it did."""
        # An impossible transition would raise through the executor, and any client could end the process.
        service = self._service_change_state
        service.callback = exclusive(_guarded(service.callback, self._complain))

    @property
    def lifecycle_state(self) -> str:
        """unconfigured, inactive, active or finalized; the name of a transition while it lasts."""
        return str(self._state_machine.current_state[1])

    @property
    def active(self) -> bool:
        return self.lifecycle_state == "active"

    def configure(self) -> None:
        """Raises OSError or ValueError."""
        raise NotImplementedError

    def activate(self) -> None:
        """Raises OSError or ValueError."""
        raise NotImplementedError

    def deactivate(self) -> None:
        raise NotImplementedError

    def clean_up(self) -> None:
        """From any state but unconfigured; twice does no harm."""
        raise NotImplementedError

    def said(self, text: str) -> None:
        """A transition was made, or was not."""
        raise NotImplementedError

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._do("configure", self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._do("activate", self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._do("deactivate", self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._do("cleanup", self.clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._do("shutdown", self.clean_up)

    def _do(self, name: str, deed: Callable[[], None]) -> TransitionCallbackReturn:
        self.failure = ""
        try:
            deed()
        except (OSError, ValueError) as error:
            self.failure = str(error)
            self.said(f"{name} failed: {error}")
            return FAILED
        self.said(f"{name}: done")
        return DONE

    def _complain(self, request: ChangeState.Request, error: Exception) -> None:
        wanted = request.transition.label or request.transition.id
        self.said(f"transition {wanted!r} is refused in the state {self.lifecycle_state}: {error}")


def _guarded(
    callback: Callable[[Any, Any], Any], complain: Callable[[ChangeState.Request, Exception], None]
) -> Transition:
    def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        try:
            answered: ChangeState.Response = callback(request, response)
        except (rclpy_implementation.RCLError, RuntimeError) as error:
            complain(request, error)
            response.success = False
            return response
        return answered

    return answer

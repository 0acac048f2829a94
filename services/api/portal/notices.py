"""The notices that a page shows after a change.

The URL contains only a notice's key, so a link cannot make a page show any other text.
"""

from typing import Final

NOTICES: Final[dict[str, str]] = {
    "signed_out_elsewhere": "Signed out everywhere else.",
    "session_ended": "That browser is signed out.",
    "password_changed": "Password changed. Every other browser is signed out.",
    "name_changed": "Name changed.",
    "password_set": "Password set. Sign in with it.",
    "joined": "Welcome to the project.",
    "project_renamed": "Project renamed.",
    "project_archived": "Project archived. Its keys no longer work.",
    "project_restored": "Project restored. Its keys work again, except revoked ones.",
    "role_changed": "Role changed.",
    "member_removed": "Member removed.",
    "left": "You have left the project.",
    "invitation_withdrawn": "Invitation withdrawn. Its link no longer works.",
    "key_revoked": "Key revoked. It stops working within a second.",
    "room_ended": "Room ended. Everybody in it was disconnected.",
    "participant_removed": "Participant removed.",
    "event_replayed": "Event replayed. A worker counts it in a moment.",
    "event_dismissed": "Event dismissed.",
    "account_disabled": "Account disabled and signed out everywhere.",
    "account_enabled": "Account enabled.",
    "admin_given": "This account now administers the instance.",
    "admin_taken": "This account no longer administers the instance.",
}


def spoken(error: Exception) -> str:
    """Return an error of Relay as a sentence."""
    text = str(error).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."

"""One file a step, in order. A step that was released is never changed: a new one is added, and its
`down_revision` names the last.
"""

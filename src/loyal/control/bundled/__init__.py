"""Control functions that come along: a lookup, arithmetic on stated units, a routing.

They are files that a community could have written; `functions.load` takes them by name, and their
Python runs in the sandbox alone.
"""

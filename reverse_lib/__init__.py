"""The workbench for agentic image geo-localization.

Its folders are rooms; a room's `__init__.py` is its door and says what it offers. README's layout lists them in the
order data flows: a room uses those before it and no other, through their doors.
"""

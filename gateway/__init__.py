"""The public edge of the mesh: REST, server-sent events and the console.

Everything that comes from outside is checked here once: who calls, how often,
how large, in what shape. What goes on to the services is a signed context and a
typed message.
"""

"""From a source file to text with pages and headings, in a process of its own.

`media` tells what a file is, `worker` is the process that reads it under limits,
`runner` starts that process and turns its end into a result or a reason.
"""

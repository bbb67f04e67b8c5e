"""Programs as models of an OpenAI-compatible server, and as tools of an MCP server; the extras ``serve`` and ``mcp``.

programs     the programs by name, and what clients are told about them
inputs       values of inputs from JSON, and schemas
requests     a request: its inputs, options and limits
runs         the runs under way, and the last ones that ended
replies      completions and chunks, as the types of the ``openai`` package
chat         one answer: as one completion, or as a stream of chunks
problems     errors in OpenAI's format
guard        who may ask: keys, hosts, sizes and speeds of bodies
app          the routes, and the programs as models
server       the process: uvicorn
mcp_server   programs as tools of an MCP server
"""

"""Programs as models of an OpenAI-compatible server and as tools of an MCP server; the extras ``serve`` and ``mcp``."""

"""An HTTP server with OpenAI's endpoints: `neoxnative serve`, or `neoxnative.server.app.create_app` for a server of your own.

README.md lists endpoints, fields and flags. This package needs the extra neoxnative[server].
"""

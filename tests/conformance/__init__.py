"""The official conformance suite of the protocol, run against a server directly and through a gateway, and compared."""

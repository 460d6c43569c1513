"""The D-Bus face: the contract in interface.xml, the service, and the client."""

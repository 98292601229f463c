TIMEOUT = 300.0  # seconds until all processes have to be connected

"""For all unit tests."""

from hypothesis import HealthCheck, settings

# A machine that has other work must not make a test fail: none of them is about time.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

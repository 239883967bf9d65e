"""What holds for all tests: no property has a deadline, as a busy machine would break it where the code does not."""

from hypothesis import settings

settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")

"""Running a sweep: from checked options to an exit status, with Ray Tune in between."""

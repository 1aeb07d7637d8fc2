"""Tests of jitaccess, one folder per package."""

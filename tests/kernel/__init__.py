"""Tests of jitaccess.kernel."""

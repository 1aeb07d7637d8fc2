"""Tests of jitaccess.identity."""

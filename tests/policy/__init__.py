"""Tests of jitaccess.policy."""

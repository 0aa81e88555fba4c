"""Passes on the joint graph: what crosses from forward to backward?"""

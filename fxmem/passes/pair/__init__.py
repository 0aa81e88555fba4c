"""Passes and rules on the pair of graphs after the cut: how is it kept?"""

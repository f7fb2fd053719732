"""What a run tells people: its words, and the page of its results."""

from train.run.report.page import render
from train.run.report.words import conclusion, introduction, summary

__all__ = ['conclusion', 'introduction', 'render', 'summary']

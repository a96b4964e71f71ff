import hashlib

from django.contrib.auth.decorators import login_required
from django.http import FileResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt

from library.shelf.models import Document


@login_required(login_url="/admin/login/")
def document(request, number):
    return FileResponse(get_object_or_404(Document, pk=number).file.open("rb"))


@csrf_exempt
def digest(request):
    body = request.body
    return JsonResponse({"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()})


def boom(request):
    marker = "seen in the page of the exception"
    raise RuntimeError("boom on purpose: " + marker)
